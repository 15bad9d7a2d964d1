"""One reader for each dataset's own layout and label encoding."""
