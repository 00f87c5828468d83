//! The initramfs init: choose the slot, spend a try, start it.
