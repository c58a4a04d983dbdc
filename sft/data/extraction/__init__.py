"""Drawing exact quotas of labelled documents from a collection, and writing them."""
