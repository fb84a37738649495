"""Scripts of letters, and the stop words that tell languages of one script apart."""

from __future__ import annotations

from bisect import bisect_right

SCRIPTS = (
    "none", "Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali",
    "Tamil", "Thai", "Georgian", "Hangul", "Kana", "Han",
)  # fmt: skip
_RANGES = (  # (first, last, script) of the blocks that hold nearly all letters in use
    (0x41, 0x5A, "Latin"), (0x61, 0x7A, "Latin"), (0xAA, 0x24F, "Latin"), (0x1E00, 0x1EFF, "Latin"),
    (0x370, 0x3FF, "Greek"), (0x1F00, 0x1FFF, "Greek"), (0x400, 0x52F, "Cyrillic"),
    (0x530, 0x58F, "Armenian"), (0x590, 0x5FF, "Hebrew"), (0x600, 0x77F, "Arabic"),
    (0x8A0, 0x8FF, "Arabic"), (0xFB50, 0xFDFF, "Arabic"), (0xFE70, 0xFEFC, "Arabic"),
    (0x900, 0x97F, "Devanagari"), (0x980, 0x9FF, "Bengali"), (0xB80, 0xBFF, "Tamil"),
    (0xE00, 0xE7F, "Thai"), (0x10A0, 0x10FF, "Georgian"), (0x1100, 0x11FF, "Hangul"),
    (0xAC00, 0xD7A3, "Hangul"), (0x3040, 0x30FF, "Kana"), (0x3400, 0x4DBF, "Han"),
    (0x4E00, 0x9FFF, "Han"), (0xF900, 0xFAFF, "Han"), (0x20000, 0x3FFFF, "Han"),
)  # fmt: skip

# The most frequent words of languages that share a script; their counts are compared.
STOP_WORDS = {
    "English": "the be to of and that have with in is it for was on are as at this but not you he "
    "she i my me do we they can from what how",
    "German": "der die und das nicht ist von zu den mit sich des dem auf ein eine auch es an ich "
    "sie werden aus hat dass bei nach",
    "French": "le la les et des est une dans que qui pour pas sur au avec ce il elle ne se plus "
    "par sont je vous du en",
    "Spanish": "el la los las de que y en un una es por con para su se no como más pero lo al del "
    "está este",
    "Portuguese": "o os que e do da em um uma não para com por mais dos das como mas ao ele são "
    "seu sua foi",
    "Italian": "il di che è la per un non sono della con si le da gli una nel alla dei come anche "
    "ma più questo",
    "Dutch": "de het een van en in is dat op te zijn met voor niet aan er om ook als dan maar bij "
    "nog naar wordt",
    "Swedish": "och att det som en på är av för med den till inte om har jag ett var men från",
    "Danish": "og at det er en på af for med den til ikke om har jeg et var men fra der",
    "Finnish": "ja on ei se että oli hän mutta ovat kun niin myös tai joka kuin",
    "Polish": "i w nie na się z że do to jest o jak ale po co tak za od przez",
    "Czech": "a je se na v že to s z do o jsem ale jako za by jsou které pro",
    "Hungarian": "a az és hogy nem egy is ez volt meg de csak van már el mint",
    "Romanian": "și în de la nu a cu că este pe un o mai din pentru sunt fi care",
    "Turkish": "ve bir bu da de için ile çok ne gibi daha o ben en ama var olarak",
    "Indonesian": "yang dan di ini itu dengan untuk tidak dari dalam akan pada juga ke saya",
    "Vietnamese": "và là của có không được cho một những trong với người các đã này",
    "Russian": "и в не на что он с как это по но из у за от так все она его к было",
    "Ukrainian": "і в не на що з до та це як у за від його але є про для або",
    "Bulgarian": "и на да се в не за от с че по е са като ще към които",
}
_BY_SCRIPT = {
    "Greek": "Greek", "Armenian": "Armenian", "Hebrew": "Hebrew", "Arabic": "Arabic script",
    "Devanagari": "Devanagari script", "Bengali": "Bengali", "Tamil": "Tamil", "Thai": "Thai",
    "Georgian": "Georgian", "Hangul": "Korean", "Kana": "Japanese", "Han": "Chinese",
}  # fmt: skip
UNCLEAR = "unclear"
LANGUAGES = (UNCLEAR, *STOP_WORDS, *_BY_SCRIPT.values())


def language_of_script(script: str) -> int:
    """The place in LANGUAGES of the language, or group, that a script alone tells; 0 if none."""
    return LANGUAGES.index(_BY_SCRIPT[script]) if script in _BY_SCRIPT else 0


def script_of(character: str) -> int:
    """The place in SCRIPTS of a letter's, 0 where it is none of them."""
    code = ord(character)
    at = bisect_right(_FIRSTS, code) - 1
    if at < 0 or code > _SORTED[at][1] or not character.isalpha():
        return 0
    return SCRIPTS.index(_SORTED[at][2])


_SORTED = sorted(_RANGES)
_FIRSTS = [first for first, _, _ in _SORTED]
# Characters that are a word each: no space stands between words written with them.
SINGLE = "".join(
    f"{chr(first)}-{chr(last)}" for first, last, script in _SORTED if script in ("Han", "Kana")
)
