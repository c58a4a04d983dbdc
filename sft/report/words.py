"""The report's labels in English and Chinese; the page holds both and shows one."""

import re
from typing import Literal

from markupsafe import Markup

from sft.pages import text

Language = Literal["en", "zh"]
ZH = {
    "metric": "指标",
    "base": "微调前",
    "tuned": "微调后",
    "baseline": "对比模型",
    "this run": "本次训练",
    "difference": "差值",
    "95 % interval": "95% 置信区间",
    "fixed": "变好条数",
    "broken": "变差条数",
    "finding": "结论",
    "better": "变好",
    "worse": "变差",
    "unclear": "不明显",
    "too few rows": "数据太少",
    "Yardsticks": "参照基线",
    "yardstick": "参照基线",
    "its figure": "基线得分",
    "majority class": "多数类",
    "bag of words": "词袋模型",
    "dictionary of entities": "训练实体词典",
    "answers": "生成的答案",
    "perplexity": "困惑度",
    "bits per byte": "每字节比特数",
    "empty answers": "空答案比例",
    "unfinished answers": "未写完比例",
    "unparseable answers": "无法解析比例",
    "answer length, tokens": "答案长度（token）",
    "answer / reference length": "答案与参考长度之比",
    "distinct-1": "distinct-1",
    "distinct-2": "distinct-2",
    "slice": "分组",
    "rows": "条数",
    "tokens": "token 数",
    "loss": "损失",
    "accuracy": "准确率",
    "accuracy (generated)": "准确率（自由生成）",
    "eval_loss": "评测损失",
    "tool calls": "工具调用",
    "Tool calls": "工具调用",
    "calls valid": "调用可解析率",
    "calls right function": "调用函数正确率",
    "calls exact": "调用完全正确率",
    "calls arguments f1": "调用参数 F1",
    "no-call accuracy": "不调用的准确率",
    "Headline": "主要指标",
    "Answers": "生成的答案",
    "by class": "按类别",
    "Slices": "分组结果",
    "by source": "按来源",
    "by task": "按任务",
    "by length in tokens": "按长度（token）",
    "by language": "按语言",
    "Loss by slice": "分组损失",
    "Leaks": "数据泄漏检查",
    "Without these rows": "去掉这些数据之后",
    "Plots": "图表",
    "Loss while training": "训练过程中的损失",
    "training loss": "训练损失",
    "validation loss": "验证损失",
    "step": "步数",
    "Answer lengths": "答案长度",
    "reference": "参考答案",
    "answer": "答案",
    "prediction": "预测",
    "Reliability": "可靠性图",
    "confidence": "置信度",
    "accuracy of the bin": "该区间的准确率",
    "Labels": "分类",
    "Entities, strict": "实体（严格匹配）",
    "class": "类别",
    "type": "类型",
    "detectable": "可检出的最小差值",
    "change": "变化",
    "relative": "相对变化",
    "f1": "F1",
    "auc_roc": "AUC",
    "calibration": "校准",
    "Calibration": "校准",
    "ECE": "校准误差（ECE）",
    "ECE, temperature": "校准误差（ECE，温度校正后）",
    "ECE, 95 % interval": "校准误差（ECE）的 95% 区间",
    "ECE expected by chance": "校准误差（ECE），偶然水平",
    "Brier": "Brier 分数",
    "mean confidence": "平均置信度",
    "confidence above 0.9": "置信度高于 0.9 的比例",
    "exact match": "完全匹配",
    "Robustness": "鲁棒性",
    "test": "测试",
    "original": "原文准确率",
    "rewritten": "改写后准确率",
    "score": "得分",
    "flipped": "答案改变比例",
    "hard cases": "难例",
    "precision": "精确率",
    "recall": "召回率",
    "F1": "F1",
    "in the reference": "参考中的数量",
    "found": "命中",
    "predicted": "预测数量",
    "all": "全部",
    "reference ↓ answer →": "参考 ↓ 答案 →",
    "label scoring": "标签打分",
    "label": "标签",
    "classification head": "分类头",
    "generated": "自由生成",
    "(none of the labels)": "（不在标签中）",
    "Examples": "样例",
    "Rows that got worse": "变差的数据",
    "Rows that got better": "变好的数据",
    "The worst rows": "最差的数据",
    "Rows at random": "随机抽取的数据",
    "question": "问题",
    "not finished": "未写完",
    "in the training data": "与训练数据相同",
    "near a training row": "与训练数据近似",
    "written too much or otherwise": "多写或写错",
    "missing": "缺少",
    "Measured with": "评测条件",
    "The run": "训练信息",
    "All figures": "全部指标",
    "Label by label": "逐个标签",
    "model": "模型",
    "method": "方法",
    "training data": "训练数据",
    "length of training": "训练长度",
    "learning rate": "学习率",
    "rows per step": "每步条数",
    "hardware": "硬件",
    "training time": "训练时间",
    "peak memory": "显存或内存峰值",
    "compared with": "对比模型",
    "scored on": "评测数据",
    "shortened rows": "被截短",
    "too long, left out": "过长未评测",
    "training loss, smoothed": "训练损失（平滑）",
    "Validation while training": "训练过程中的验证指标",
    "user": "用户",
    "assistant": "参考回复",
    "base model": "基座模型",
    "data, sha256": "数据 sha256",
    "prompt fingerprint": "提示词指纹",
    "seed": "随机种子",
    "versions": "版本",
    "git revision": "git 版本",
    "written": "生成内容",
    "what": "项目",
    "value": "值",
    "other": "其他",
    "F1, partial": "F1（部分匹配）",
    "zh": "中文",
    "en": "英文",
    "ja": "日文",
    "ko": "韩文",
    "none": "无",
    "measured on all rows": "在全部数据上测得",
    "synonyms": "同义词",
    "homophones": "同音字",
    "typos": "错字",
    "punctuation": "标点",
    "width": "全半角",
    "whitespace": "空白",
    "emoji": "表情符号",
    "case": "大小写",
    "drawn_out": "拖长句尾",
    "very_short": "极短",
    "negation": "否定",
    "double_negation": "双重否定",
    "sarcasm": "反讽",
    "mixed_turning_good": "先抑后扬",
    "mixed_turning_bad": "先扬后抑",
    "comparison": "比较",
    "wish_and_condition": "愿望与假设",
    "slang": "网络用语",
    "emoji_with_meaning": "有含义的表情",
    "facts_without_feeling_words": "只陈述事实",
    "quoted_opinion": "转述他人看法",
    "english_and_mixed_script": "英文与中英混写",
    "very_long": "很长",
}


def both(english: str) -> Markup:
    """A label in both languages: both("rows"). A name without a translation (a task, a source) is unchanged."""
    chinese = translate(english)
    return english_and_chinese(english, chinese) if chinese != english else text(english)


def english_and_chinese(english: object, chinese: object) -> Markup:
    """Two versions of a text, of which the page shows one; each is escaped."""
    return Markup('<span class=en lang="en">{}</span><span class=zh lang="zh">{}</span>').format(
        text(english), text(chinese)
    )


def both_sentences(english: str, chinese: str) -> Markup:
    """Sentences that the terminal prints too, with the page's arrows: `0.333 -> 0.900` reads `0.333 → 0.900`."""
    return english_and_chinese(english.replace(" -> ", " → "), chinese.replace(" -> ", " → "))


def translate(english: str) -> str:
    """The Chinese label; `sentiment accuracy` -> `sentiment 准确率`, `ner, generated` -> `ner，自由生成`."""
    if english in ZH:
        return ZH[english]
    if match := re.fullmatch(
        r"(\S+) (accuracy(?: \(generated\))?|ECE.*|Brier|mean confidence|confidence above .*)", english
    ):
        return f"{match[1]} {translate(match[2])}"
    if english.endswith(" points"):
        return english.removesuffix("points") + "个百分点"
    first, comma, last = english.rpartition(", ")
    if comma and last in ZH:
        return f"{translate(first)}，{ZH[last]}"
    return english


NOTES = {
    name: english_and_chinese(*words)
    for name, words in {
        "difference": ("tuned minus base", "微调后减微调前"),
        "fixed": ("rows that got better", "变好的条数"),
        "broken": ("rows that got worse", "变差的条数"),
        "finding": ("after correction for several metrics", "对多个指标校正之后"),
        "detectable": ("difference found 4 times in 5", "五次中有四次能检出"),
        "perplexity": ("exp of the loss per token; lower is better", "每 token 损失的指数；越低越好"),
        "bits per byte": ("loss per byte of text; lower is better", "每字节文本的损失；越低越好"),
        "unfinished answers": ("share cut at the length limit", "因长度上限而截断的比例"),
        "unparseable answers": ("share with no label or no valid JSON", "没有标签或不是有效 JSON 的比例"),
        "answer / reference length": ("1: as long as the references", "1：与参考答案一样长"),
        "distinct-1": ("share of different words; low: repetitive", "不同词的比例；低则重复多"),
        "distinct-2": ("the same for pairs of words", "不同词对的比例"),
        "rouge1": ("words shared with the reference", "与参考答案相同的词"),
        "rouge2": ("pairs of words shared", "与参考答案相同的词对"),
        "rougeL": ("longest common sequence of words", "最长公共词序列"),
        "F1, partial": ("overlapping spans count in part", "部分重叠按比例计分"),
        "original": ("accuracy on the rows as they are", "原文的准确率"),
        "rewritten": ("accuracy on the rewritten rows", "改写后的准确率"),
        "flipped": ("share of answers that changed", "答案改变的比例"),
        "relative": ("change relative to the base", "相对于微调前的变化"),
    }.items()
}  # explanations shown below the name of a column or row


def say(english: str, language: Language) -> str:
    """A label in one language."""
    return translate(english) if language == "zh" else english
