"""What a conversation becomes: rows -> messages -> token ids and loss mask, and the fingerprint of it all.

    chat = ChatFormat.from_tokenizer(tokenizer)
    encoded = chat.encode(conversation_of(row, EXPERT_SYSTEM_PROMPT), max_length=2048)

Imports no torch and nothing of sft/, so that anything may import it.
"""

from prompts.chatml import ChatFormat, Rules
from prompts.errors import PromptError, TooLong
from prompts.family import THINK_POLICIES, ThinkPolicy
from prompts.fingerprint import Fingerprint
from prompts.head import Head
from prompts.layout import Encoded, Piece
from prompts.messages import Message, Tool, ToolCall
from prompts.tasks import EXPERT_SYSTEM_PROMPT, conversation_of

__all__ = [
    "EXPERT_SYSTEM_PROMPT",
    "THINK_POLICIES",
    "ChatFormat",
    "Encoded",
    "Fingerprint",
    "Head",
    "Message",
    "Piece",
    "PromptError",
    "Rules",
    "ThinkPolicy",
    "TooLong",
    "Tool",
    "ToolCall",
    "conversation_of",
]
