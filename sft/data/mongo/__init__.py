"""MongoDB: where a collection is and how one logs in, its documents as a stream that survives a lost connection, and
exact quotas per label drawn from it. pymongo is imported where a connection is made, not before.
"""
