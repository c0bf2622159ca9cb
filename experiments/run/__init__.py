"""Running a study: its command line, its runs, their devices."""
