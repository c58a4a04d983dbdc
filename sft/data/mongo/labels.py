"""Which labels a collection holds, counted by the server."""

from pymongo.collection import Collection

from sft.data.mongo.connection import Document

NO_LABEL = "(none)"


def count_labels(collection: Collection[Document], field: str) -> dict[str, int]:
    """Documents of each label, the most frequent first: {"正常": 152000, "暴恐": 6012, "(none)": 3}.

    A document with a list of labels counts for each of them.
    """
    pipeline: list[Document] = [
        {"$unwind": {"path": f"${field}", "preserveNullAndEmptyArrays": True}},
        {"$group": {"_id": f"${field}", "count": {"$sum": 1}}},
    ]
    counts: dict[str, int] = {}
    for group in collection.aggregate(pipeline):
        label = NO_LABEL if group["_id"] is None else str(group["_id"])
        counts[label] = counts.get(label, 0) + int(str(group["count"]))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
