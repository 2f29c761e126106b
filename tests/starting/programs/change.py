version = "old"
