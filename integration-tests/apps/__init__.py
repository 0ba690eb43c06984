"""Applications for the tests; a package, as add-ons look for files beside it."""
