"""Message types of ROS 2 without generated code: definitions, hashes, Arrow types, CDR."""
