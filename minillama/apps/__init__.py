"""What is run from the command line: the verbs, `make reproduce`, reports and the page."""
