"""What a person looks at: rank lists as a page, a picture, a table or JSON, and the plot of a calibration."""
