"""What the judge measures of the points of an attack; a rejected one is enlarged by the smallest factor that passes."""
