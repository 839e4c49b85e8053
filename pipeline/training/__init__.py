"""How the weights of the built-in model `tiny` were made: gather media, train, evaluate. Not a part of the wheel."""
