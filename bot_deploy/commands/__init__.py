"""One file for each verb of `bot`: options in, a library call, words or JSON out."""
