"""Clips of real videos: Something-Something, and any folder of videos."""
