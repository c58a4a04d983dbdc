"""What is known of text by itself: languages, words, the normalised form, shingles, HTML as plain text."""
