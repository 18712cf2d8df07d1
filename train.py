"""`mvp-align train`: accelerate launch train.py experiment=divervalue_llama2_7b"""

from mvp_align.launch import run

if __name__ == "__main__":
    run("train")
