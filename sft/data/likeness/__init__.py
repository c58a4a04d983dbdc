"""Which rows are alike: signatures, near duplicates, overlap with texts that are evaluated on."""
