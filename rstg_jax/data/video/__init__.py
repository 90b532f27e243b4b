"""Clips of videos on disk: Something-Something, public data sets, any folder of videos."""
