"""SyncMNIST: which two of the moving digits move together?"""
