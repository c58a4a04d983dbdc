"""A chat in a terminal or through a pipe: lines that are typed, commands among them, answers that are streamed.

session = Session(loaded, Conversation("Be brief."), decoding, LineReader("you> "), SavedChats(folder))
session.run()
"""
