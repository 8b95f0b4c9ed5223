"""The judge, which checks the points of an attack; a rejected one is enlarged by the smallest factor that passes."""
