"""A recorded conversation, held again with a fresh daemon, and what is different about it."""
