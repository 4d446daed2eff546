"""What is known of families of networks: declarations, one small file each; no network is copied."""
