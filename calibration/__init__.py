"""From images to a quantized graph: statistics, ranges, the calibration table, lowering for a device, and the audit."""
