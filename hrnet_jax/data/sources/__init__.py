"""Where examples are read from: folders, zip files, ArrayRecord shards, copies of buckets."""
