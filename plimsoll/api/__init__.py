"""The verbs of Plimsoll, once: the command line and any other face are thin over these."""
