"""Results on a grid of levels (core/domain/levels.py): a point is moved to the grid and the search continues there.

In many dimensions the attack runs without the grid, since its steps are far smaller than a level. Then its point z is
rounded with the help of the gradient g of the margin at a known grid point u:

    u' = round(z + lambda g / w^2)     with the smallest lambda for which  m(u) + g (u' - u) >= the margin that counts,

where w are the weights of the distance. If u' falls short because the margin is curved, the shortfall is added to the
margin that the next trial aims at. In few dimensions, where levels are coarse, the attack itself runs at grid points
(CountedModel.on_grid); from the nearest one, changes of one or two pixels by one level that lower the distance are
tried, those with the largest predicted margin first. docs/design/levels.md has the alternatives that were measured.
"""

from plica.attacks.levels.search import on_levels

__all__ = ["on_levels"]
