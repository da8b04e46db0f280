"""What the pages say around cards and results, in both languages."""

from __future__ import annotations

from repertory.reports import words

LANGUAGES = ("en", "zh")

TOPICS = {
    "vision": ("Vision", "视觉"), "video": ("Video", "视频"), "driving": ("Driving", "自动驾驶"),
    "graphs": ("Graphs", "图学习"), "spiking": ("Spiking networks", "脉冲网络"), "language": ("Language", "语言"),
    "music": ("Music", "音乐"), "generation": ("Generation", "生成"), "security": ("Security", "安全"),
    "recommendation": ("Recommendation", "推荐"), "medicine": ("Medicine", "医学"), "theory": ("Theory", "理论"),
}  # fmt: skip

EN = {
    "tagline": "Does the published claim hold?",
    "lead": "repertory keeps {papers} published deep-learning methods runnable and tests what they claim: {claims} "
    "claims, each with its published figure, a measurement and a statistical verdict.",
    "shown": "One claim of many:", "its page": "see its page",
    "claims measured": "{} claims, tested at laptop scale", "also": "and {} more verdicts on larger, real data",
    "papers": "Papers", "open": "Fails and undecided", "compare": "Compare", "method": "How claims are tested",
    "contribute": "Add a paper", "api": "API", "skip": "Skip to the content", "other": "中文", "menu": "Pages",
    "search": "Search", "search hint": "graph clustering, domain shift, 图神经网络 …", "nothing": "No paper matches.",
    "topic": "topic", "verdict": "verdict", "year": "year", "fidelity": "fidelity", "minutes": "minutes", "any": "any",
    "gpu": "data and GPU", "gpu yes": "some claims need a GPU", "gpu no": "a laptop is enough", "at most": "at most {}",
    "reset": "Show all", "found": "{} papers",
    "exact": "exact", "partial": "partial", "reconstruction": "reconstruction",
    "fidelity exact": "matches the authors' code", "fidelity partial": "matches in part",
    "fidelity reconstruction": "rebuilt without the authors' code",
    "run": "Test its claims", "takes": "about {} min on two cores", "copy": "Copy", "copied": "Copied",
    "not recorded": "not recorded yet", "verdicts": "Verdicts", "claims": "Claims", "use": "Use it",
    "command line": "Command line", "python": "Python", "own data": "Your own data",
    "sample": "writes the sample ({}) in this layout",
    "speed": "Speed", "goal": "goal {}", "growth": "Growth with size",
    "speed lead": "{} races beside other implementations, on one CPU thread: median ratio {}; {} reach their goal.",
    "speed how": "Contestants take turns in one process; dots are medians of the paired ratios of CPU time, bars their "
    "quartiles. To the right of 1: faster than the peer.",
    "growth lead": "Exponent of the time over the upper half of the sizes; 1 is linear.",
    "no speed": "Nothing was measured yet: make bench.",
    "idea": "In colour: what the paper adds.",
    "try": "Try it", "more rows": "and {} more rows",
    "try lead": "What the method says about its sample ({}), trained at laptop scale by these commands on",
    "earlier": "{} earlier records",
    "notes": "Decisions and findings", "decisions": "{} decisions", "findings": "{} findings",
    "decision": "decision", "finding": "finding", "history": "Recorded runs", "data": "data",
    "seeds": "seeds", "looks": "looks at", "computing": "computing", "date": "date", "machine": "machine",
    "versions": "code", "changed": "changed settings", "none": "none", "multiplicity": "corrected for their number",
    "details": "Seeds, arms and tests", "published": "published", "arm": "arm",
    "metric": "metric", "value": "value", "source": "source", "test": "test", "estimate": "estimate",
    "interval": "95 % interval", "method of": "method", "claimed": "accepted", "mean": "mean ± sd",
    "arms": "Arms", "the method": "the method", "cite": "Cite",
    "badge": "Badge for a README", "json": "This claim as JSON (ClaimReview)", "all json": "All claims as JSON",
    "code": "authors' code", "no code": "no code released",
    "local": "local run", "api lead": "What others write against, and the public names of each paper.",
    "shared": "Shared", "related": "Related papers",
    "open lead": "A claim that fails, or that the data cannot decide, is a result. {fails} claims fail and {undecided} "
    "are undecided in the recorded results; the plots show by how much.",
    "failing": "Fails", "waiting": "Undecided", "decide": "More seeds, where they are needed:",
    "compare lead": "Papers of one topic side by side. A verdict speaks for the data and the scale it was measured on.",
    "paper": "paper", "decided": "decided", "of": "{} of {}", "updated": "Recorded up to {}",
    "source code": "Results, with every trial, are in results/ of the source checkout.",
    "belongs": "The papers belong to their authors.",
    "version": "repertory {}", "local lead": "With the runs of this machine in {}.",
}  # fmt: skip

ZH = {
    "tagline": "论文的主张成立吗？",
    "lead": "repertory 让 {papers} 篇深度学习论文的方法保持可运行，并检验其主张：共 {claims} 条，"
    "每条都列出发表数值、本库实测与统计判定。",
    "shown": "其中一条主张：", "its page": "查看论文页",
    "claims measured": "{} 条主张，在 laptop 规模上检验", "also": "另有 {} 条判定来自更大的真实数据",
    "papers": "论文", "open": "不成立与未定", "compare": "对比", "method": "如何检验主张",
    "contribute": "添加论文", "api": "API", "skip": "跳到正文", "other": "English", "menu": "页面",
    "search": "搜索", "search hint": "图聚类、领域偏移、spiking …", "nothing": "没有匹配的论文。",
    "topic": "领域", "verdict": "判定", "year": "年份", "fidelity": "忠实度", "minutes": "分钟", "any": "不限",
    "gpu": "数据与 GPU", "gpu yes": "部分主张需要 GPU", "gpu no": "笔记本即可", "at most": "至多 {}",
    "reset": "显示全部", "found": "{} 篇论文",
    "exact": "一致", "partial": "部分一致", "reconstruction": "重构",
    "fidelity exact": "与作者代码一致", "fidelity partial": "部分一致",
    "fidelity reconstruction": "无作者代码，重新构建",
    "run": "检验其主张", "takes": "双核约 {} 分钟", "copy": "复制", "copied": "已复制",
    "not recorded": "尚无记录", "verdicts": "判定", "claims": "主张", "use": "使用",
    "command line": "命令行", "python": "Python", "own data": "自己的数据",
    "sample": "按此格式写出样例数据（{}）",
    "speed": "速度", "goal": "目标 {}", "growth": "随规模的增长",
    "speed lead": "与其他实现的 {} 场比较，单个 CPU 线程：比值中位数 {}；{} 场达到目标。",
    "speed how": "双方在同一进程中交替运行；点为配对 CPU 时间比的中位数，线段为四分位。位于 1 的右侧：比对方快。",
    "growth lead": "时间在规模上半段的增长指数；1 为线性。",
    "no speed": "尚未测量：make bench。",
    "idea": "彩色部分：论文的新意。",
    "try": "试一试", "more rows": "另有 {} 行",
    "try lead": "按 laptop 规模用下列命令训练后，该方法对样例数据（{}）的输出，日期",
    "earlier": "更早的 {} 次记录",
    "notes": "取舍与发现", "decisions": "{} 项取舍", "findings": "{} 项发现",
    "decision": "取舍", "finding": "发现", "history": "运行记录", "data": "数据",
    "seeds": "种子", "looks": "判定时种子数", "computing": "计算时间", "date": "日期", "machine": "机器",
    "versions": "代码", "changed": "改动的设置", "none": "无", "multiplicity": "多重检验校正",
    "details": "种子、实验组与检验", "published": "发表", "arm": "实验组",
    "metric": "指标", "value": "数值", "source": "来源", "test": "检验", "estimate": "估计值",
    "interval": "95% 区间", "method of": "方法", "claimed": "接受范围", "mean": "均值 ± 标准差",
    "arms": "实验组", "the method": "论文方法", "cite": "引用",
    "badge": "README 徽章", "json": "本主张的 JSON（ClaimReview）", "all json": "全部主张的 JSON",
    "code": "作者代码", "no code": "未公开代码",
    "local": "本机运行", "api lead": "供他人编程使用的接口，以及每篇论文的公开名称（英文）。",
    "shared": "公共模块", "related": "相关论文",
    "open lead": "不成立，或数据不足以判定，同样是结果。"
    "已记录的结果中有 {fails} 条不成立、{undecided} 条未定；图中可见差距。",
    "failing": "不成立", "waiting": "未定", "decide": "在需要之处增加种子：",
    "compare lead": "同一领域的论文并列。判定只对其所用数据与规模有效。",
    "paper": "论文", "decided": "已判定", "of": "{} / {}", "updated": "记录截至 {}",
    "source code": "结果及每次试验见源码中的 results/。", "belongs": "论文归其作者所有。",
    "version": "repertory {}", "local lead": "包含本机 {} 中的运行。",
}  # fmt: skip

WORDS = {"en": {**words.WORDS["en"], **EN}, "zh": {**words.WORDS["zh"], **ZH}}
"""Words of the reports, then those of the pages."""


def topic_of(topic: str, lang: str) -> str:
    """The heading of a topic."""
    return TOPICS[topic][LANGUAGES.index(lang)]
