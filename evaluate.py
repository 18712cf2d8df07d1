"""`mvp-align evaluate`: accelerate launch evaluate.py adapter=outputs/RUN/adapter"""

from mvp_align.launch import run

if __name__ == "__main__":
    run("evaluate")
