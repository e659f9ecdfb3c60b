"""Images: data sets, folders and archives, decoded and batched."""
