"""Grammars in llama.cpp's GBNF notation."""

from __future__ import annotations

from minillm.generation.constraints.constraint import Constraint, compiled
from minillm.generation.constraints.costs import NEVER, left_recursion, shortest
from minillm.generation.constraints.gbnf import Parser
from minillm.generation.constraints.language import Node, Rule, nodes
from minillm.tokenizers import Tokenizer


def grammar(rules: str, tokenizer: Tokenizer) -> Constraint:
    """The text is one of rule `root`.

        root ::= "sum: " term ("+" term)*   # a comment
        term ::= [0-9]+ | "(" root ")"

    Literals "..." and classes [a-z] [^a-z], in both the escapes \\n \\r \\t \\\\ \\" \\[ \\] \\xNN
    \\uNNNN \\UNNNNNNNN; . for any character; groups, | and * + ? {n} {n,} {n,m}. A rule ends with
    its line unless a parenthesis is open or | ends the line. Nesting ends at about 100 rules.
    ValueError naming the line: for what is no such grammar, a rule that is not defined or defined
    twice, left recursion, a root that has no text. Tokens (<...>) are not supported.
    """
    return compiled("grammar", rules, tokenizer, lambda: grammar_node(rules))


def grammar_node(rules: str) -> Node:
    parser = Parser(rules)
    try:
        root = parser.root()
    except RecursionError:
        raise ValueError("grammar: nested too deeply, a simpler grammar is needed") from None
    ordered = nodes(root)
    itself = left_recursion(ordered)
    if itself is not None:
        raise ValueError(
            f"grammar: line {parser.lines[itself.name]}: rule {itself.name} begins with itself "
            "(left recursion), repetition is needed instead"
        )
    least = shortest(ordered)
    if least[root] == NEVER:
        dead = next(node for node in ordered if isinstance(node, Rule) and least[node] == NEVER)
        raise ValueError(
            f"grammar: line {parser.lines[dead.name]}: rule {dead.name} has no text that ends"
        )
    return root
