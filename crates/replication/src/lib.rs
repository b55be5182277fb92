//! One volume's protocol: primary, secondary, epoch change, catch-up, flow control.
