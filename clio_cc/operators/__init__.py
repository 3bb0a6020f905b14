"""Integer operators: what each one computes, bit for bit, and its TIR."""
