"""The page that a finished run is judged by."""
