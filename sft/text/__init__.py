"""Functions of text alone: languages, words, the normalised form, shingles, HTML as plain text."""
