"""Rankings for people to read: an HTML page, a montage, tables."""
