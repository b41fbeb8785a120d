"""A picture on its way to the device: header, decoding, EXIF orientation, resizing, augmentation."""
