//! Images: from the bytes of a file to a normalised tensor, with the same numbers as the Python reference.
