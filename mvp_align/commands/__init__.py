"""Commands of `mvp-align`, which imports what each needs when it is called."""
