//! Disks: reading their partition tables and performing plans on them.
