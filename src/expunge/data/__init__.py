"""From files to token ids: rows, chat formats, sequences, and the packed tree that a forward pass takes."""
