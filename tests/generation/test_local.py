from mvp_align.generation.local import generate
def test_a(talker, tokenizer, prompts, greedy):
    found = generate(talker, tokenizer, prompts, greedy, 12)
    for f in found: print(f)
    from dataclasses import replace
    for f in generate(talker, tokenizer, prompts, replace(greedy, temperature=0.7), 12): print(f)
