value = "the numpy beside the program"
