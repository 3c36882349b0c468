"""What each block of a network costs: work, bytes and memory, measured from the block itself."""
