value = "the yaml beside the program"
