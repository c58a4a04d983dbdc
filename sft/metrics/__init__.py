"""Figures from rows: each module takes plain lists and numbers, and none needs a model, a tokenizer or torch.

words            text -> the units ROUGE and distinct-n count: Chinese characters, Latin words, numbers
loss             nll of rows -> loss, perplexity, bits per byte
generations      answers -> empty, unfinished, length, distinct-n
rouge            ROUGE-1/2/L for mixed Chinese and Latin text, over rouge-score
classification   labels -> accuracy, precision, recall, F1, confusion matrix, over scikit-learn
entities         mentions -> strict span F1
comparison       base against tuned: paired intervals, tests, rows fixed and broken
"""
