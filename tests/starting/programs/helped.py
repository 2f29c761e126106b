VALUE = "a module beside the operator"
