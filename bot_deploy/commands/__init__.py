"""One file for each command of `bot`: options in, one library call, text or JSON out."""
