value = "the random beside the program"
