"""Float graph rewrites over `onnx_ir.Model`, one file each."""
