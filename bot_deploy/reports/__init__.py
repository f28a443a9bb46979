"""Output for people: rank lists as a page, a figure, a table or JSON, and the plot of a calibration."""
