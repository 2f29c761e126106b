value = "the queue beside the program"
